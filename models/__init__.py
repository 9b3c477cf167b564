"""ptyle.models: learned priors, to train, export and use; see README.md beside this file.

``python -m ptyle.models`` trains, exports and evaluates. Importing this module imports nothing.
"""
