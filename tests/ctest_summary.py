"""Prints how many ctest tests ran, and why the skipped ones did not."""

import re
import sys
import xml.etree.ElementTree as ET

suite = ET.parse(sys.argv[1]).getroot()
cases = list(suite.iter("testcase"))
reasons = {}
for case in cases:
    if case.find("skipped") is None:
        continue
    output = case.findtext("system-out") or ""
    # GoogleTest prints FILE:LINE: Skipped, then the message, then the case's last line
    found = re.search(r"Skipped\n(.*?)\n*\[  SKIPPED \]", output, re.DOTALL)
    lines = output.strip().splitlines()
    last = lines[-1] if lines else case.find("skipped").get("message", "no reason")
    reason = found.group(1).strip() if found else last  # a script's last line says why
    reasons.setdefault(reason or "no reason given", []).append(case.get("name"))

skipped = sum(len(names) for names in reasons.values())
print(f"{len(cases) - skipped} passed, {skipped} skipped")
for reason, names in reasons.items():
    print(f"  skipped {len(names)} ({names[0]}{', ...' if len(names) > 1 else ''}): {reason}")
