"""The only modules that import Kafka's, Redis' and Ethereum's clients. They import nothing from the loops."""
