"""`python -m amtl_export`: the command line, where the script `amtl-export` is not on the path."""

from amtl_export.cli.main import main

if __name__ == "__main__":
    main()
