"""How rows lie in a file: layouts, and what each costs."""
