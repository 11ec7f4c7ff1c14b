"""Reads Sigma rule files with pySigma, resolves what they refer to, and prints, as JSON, how many rules there are and
every error."""

import json
import sys

from sigma.collection import SigmaCollection

texts = [open(name, encoding="utf-8").read() for name in sys.argv[1:]]
rules = SigmaCollection.merge([SigmaCollection.from_yaml(text, collect_errors=True) for text in texts])
rules.resolve_rule_references()
errors = [f"{rule.title}: {error}" for rule in rules.rules for error in rule.errors]
print(json.dumps({"rules": len(rules.rules), "errors": errors}))
