"""walletctl: the command line of people who run a wallet."""
