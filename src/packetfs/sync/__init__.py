"""What is done with volumes: directories written from snapshots, trees compared, bytes checked.

Everything here works on an open volume and tells what happens through callbacks; nothing is printed.
"""
