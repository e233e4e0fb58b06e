"""Files of users: find and name the files that a pack reads, and write documents below a folder.

A source is a document with its name and bytes. An entry is a file that was found and is not read yet.
A name or a pattern as in .gitignore chooses documents. Every verb uses the same matcher.
A collision is two names that a file system takes for one file.
"""
