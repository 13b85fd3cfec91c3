"""The service around growcore: a sweep over a cluster, durable, recorded, and its best trial as a file.

From the command down: `cli`, `run`, `stopping` and `views`, `trial`, `cluster` and `records`, `search` and
`space`, `kept`, `config`. Each room says in its header what it holds; pyproject.toml who may import whom.
"""
