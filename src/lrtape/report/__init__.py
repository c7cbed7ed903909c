"""The report of a sweep: tapes and a leaderboard, as a table, pictures, a page, and the winner's config."""
