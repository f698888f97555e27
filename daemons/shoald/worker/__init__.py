"""Worker processes: the fork server they come from, and what runs tasks in them."""
