"""What a text must look like, enforced token by token while it is generated."""
