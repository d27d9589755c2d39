"""`python -m training`: phantoms, training and the demonstration."""

from training.cli import main

if __name__ == "__main__":
    main()
