"""Values and the bytes they are written as. No file, socket, clock or thread is touched here."""
