"""What it takes to prove that nothing is lost: real trainings, stores and servers that can be killed, and a judge.

Shared by ``tests/e2e/test_nothing_lost.py`` and ``scripts/torture.py``. Uses lrtape as its users do: as a library in a
training script, and by its commands.
"""
