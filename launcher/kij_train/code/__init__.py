"""The code of a job: which files of a folder ship, by git's rules and ours, and their bytes."""
