"""The pieces in other people's loops: schedules, the range test and pilots for the trainers that people have.

Each module is thin and has the name of its host, which it imports when it is used.
"""
