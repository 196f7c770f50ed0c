"""Writes legacy_random.json: what numpy's legacy generator draws. Needs numpy."""

import json
import pathlib

import numpy as np


def case(seed, n, size):
    state = np.random.RandomState(seed)
    first, second = state.choice(n, size), state.choice(n, size)
    mixed = sum(int(v) * (i + 1) for i, v in enumerate(np.concatenate([first, second])))
    return {"seed": seed, "n": n, "size": size, "first": first[:10].tolist(), "second": second[:10].tolist(), "mixed": mixed}


cases = [case(42, n, 20 * n) for n in (1, 2, 3, 64, 65, 1254, 1291, 1524, 1740, 1977, 2113)]
cases += [case(0, 100_000, 1000), case(4_294_967_295, 2**31, 1000)]
out = pathlib.Path(__file__).with_suffix(".json")
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
