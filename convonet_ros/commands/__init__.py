"""The commands of the command line.

Libraries are imported inside of them, so that `convonet --help` answers at once.
"""
