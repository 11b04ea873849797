# make.py does it all, and says what; it needs no make: python make.py demo
PYTHON ?= python3
export OUT

.PHONY: demo page test soak gpu clean help
.DEFAULT_GOAL := help

demo page test soak gpu clean help:
	@$(PYTHON) make.py $@
