"""Results as Markdown."""

from rows import AGAINST, ROWS

MISSING = "not available"


def value(contender):
    """Milliseconds or bytes: what is compared."""
    if contender is None:
        return None
    return contender.get("median_ms", contender.get("bytes"))


def shown(contender):
    if contender is None:
        return MISSING
    if "bytes" in contender:
        return f"{contender['bytes'] / 2**20:.0f} MiB"
    ms = contender["median_ms"]
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms"


def split(row, contenders):
    """tweedie's result, and the name and result of the peer that counts."""
    ours = next((c for name, c in contenders.items() if name.startswith("tweedie")), None)
    others = {name: c for name, c in contenders.items() if not name.startswith("tweedie")}
    best = min(others, key=lambda name: value(others[name]), default=None)
    best = next((name for name in others if name.split()[0] == AGAINST.get(row)), best)
    return ours, best, others.get(best)


def verdict(found, at_most, aim):
    """Whether a ratio is good enough."""
    if aim is not None and found <= aim:
        return "aim reached"
    return "yes" if found <= at_most else "**no**"


def threads(row, contenders):
    """The row that compares tweedie with itself: a speed-up, at least."""
    at_least, aim = ROWS[row]
    one, two = contenders.get("1 thread"), contenders.get("2 threads")
    if one is None or two is None:
        return f"| {row} | {MISSING} | | | ≥ {at_least} × | {aim} × | |"
    found = value(one) / value(two)
    ok = "aim reached" if found >= aim else "yes" if found >= at_least else "**no**"
    return f"| {row} | {shown(two)} | itself, {shown(one)} | {found:.2f} × faster | ≥ {at_least} × | {aim} × | {ok} |"


def line(row, contenders):
    if row.startswith("2 threads"):
        return threads(row, contenders)
    at_most, aim = ROWS[row]
    ours, best, theirs = split(row, contenders)
    ratio = met = ""
    if ours is not None and theirs is not None:
        found = value(ours) / value(theirs)
        ratio, met = f"{found:.2f} ×", verdict(found, at_most, aim)
    peer = "" if best is None else f"{best}, {shown(theirs)}"
    wish = "" if aim is None else f"{aim} ×"
    return f"| {row} | {shown(ours)} | {peer} | {ratio} | {at_most} × | {wish} | {met} |"


def markdown(results):
    """The table of ratios, and everybody's figures."""
    machine, rows = results.get("machine", {}), results["rows"]
    text = [", ".join(f"{k} {v}" for k, v in machine.items()), ""]
    text += ["| work | tweedie | peer | ratio | at most | aim | reached |", "|---|---|---|---|---|---|---|"]
    text += [line(row, rows[row]["contenders"]) for row in ROWS if row in rows]
    text += ["", "| work | contender | median | fastest | slowest | runs |", "|---|---|---|---|---|---|"]
    for row in (row for row in ROWS if row in rows):
        for name, c in rows[row]["contenders"].items():
            spread = "| | | 1" if "bytes" in c else f"| {min(c['ms']):.1f} | {max(c['ms']):.1f} | {len(c['ms'])}"
            text.append(f"| {row} | {name} | {shown(c)} {spread} |")
    return "\n".join(text)
