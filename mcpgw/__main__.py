"""`python -m mcpgw`."""

from mcpgw.cli.main import main

if __name__ == "__main__":
    main()
