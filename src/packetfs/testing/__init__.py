"""What tests of PacketFS, and of what is built on it, stand on. Shipped; nothing else in the package imports it."""
