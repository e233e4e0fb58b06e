"""Files of users: names and patterns, which files a pack reads, and how documents are written below a folder."""
