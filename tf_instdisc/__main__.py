"""`python -m tf_instdisc COMMAND`: the same as `instdisc COMMAND`."""

from tf_instdisc.cli.instdisc import main

if __name__ == "__main__":
    main()
