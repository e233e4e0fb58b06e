"""Files of users: which files a pack reads, under which names, and how documents are written below a folder.

A source is a document with its name and bytes. An entry is a file that was found and is not read yet.
A name or a pattern as in .gitignore chooses documents. Every verb uses the same matcher.
A collision is two names that a file system takes for one file.
"""
