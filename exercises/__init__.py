"""The exercises of lesson.md: what they are, how they are graded, and their solutions."""
