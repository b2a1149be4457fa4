"""The scorer: its networks, its files and the setting it was evolved for."""
