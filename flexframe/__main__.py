"""`python -m flexframe`, and so `torchrun -m flexframe`."""

from flexframe.cli import main

if __name__ == "__main__":
    main()
