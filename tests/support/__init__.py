"""What the tests share: scripted tasks, tiny models, databases."""
