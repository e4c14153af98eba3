"""What can be asked: instructions, visual prompts, the wording and the table of tasks. Needs no torch."""
