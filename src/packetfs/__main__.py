"""`python -m packetfs` is `packetfs`."""

from packetfs.cli import main

if __name__ == "__main__":
    main()
