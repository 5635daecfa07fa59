# The two commands: `make up` gives a working single node, `make test` runs every test.
.PHONY: test
test:
	cargo test --workspace
