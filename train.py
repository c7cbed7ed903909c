"""Train a model and record its learning rates: ``python train.py scheduler=steplr``. See ``--help``."""

from lrtape.app.main import main

if __name__ == "__main__":
    main()
