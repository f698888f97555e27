"""The object manager: objects that other nodes have are pulled once, and those that are here are served to them."""
