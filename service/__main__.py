"""`python -m service` is the `megaphone` command."""

from service.entry import main

if __name__ == "__main__":
    main()
