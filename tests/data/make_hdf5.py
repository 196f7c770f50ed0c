"""Makes the HDF5 fixtures of data_windows.rs in all the forms that SPEID's file may come in (needs h5py)."""
import h5py, numpy as np

def one_hot(side, n, length, dtype):
    row, i = np.arange(n)[:, None], np.arange(length)[None, :]
    code = (row // 2 * 7 + i * 3 + side * 5 + i * i) % 5          # A C G T N; rows come in equal pairs
    channels = [0, 3, 1, 2]                                        # A, T, C, G
    return np.stack([(code == c) for c in channels], axis=1).astype(dtype)

forms = {
    "contiguous-f8": ("f8", {}, {}),
    "contiguous-f4-big-endian": (">f4", {}, {}),
    "chunked-gzip-f8": ("f8", dict(chunks=(3, 2, 16), compression="gzip", shuffle=True, fletcher32=True), {}),
    "chunked-i1": ("i1", dict(chunks=(2, 4, 64)), {}),
    "latest-gzip-u1": ("u1", dict(chunks=(4, 4, 10), compression="gzip"), dict(libver="latest")),
    "latest-i8-growing": ("i8", dict(chunks=(4, 4, 32), maxshape=(None, 4, None)), dict(libver="latest")),
    "bool": ("?", {}, {}),
}
for name, (dtype, storage, opening) in forms.items():
    with h5py.File(f"speid-{name}.h5", "w", **opening) as f:
        f.create_dataset("K562_X_enhancers", data=one_hot(0, 10, 64, dtype), **storage)
        f.create_dataset("K562_X_promoters", data=one_hot(1, 10, 40, dtype), **{**storage, **({"chunks": (3, 1, 8)} if storage else {})})
        f.create_dataset("K562labels", data=(np.arange(10) // 2 % 2).astype(dtype if dtype != "?" else "f8"))
with h5py.File("speid-positions-first.h5", "w") as f:
    f["K562_X_enhancers"] = one_hot(0, 10, 64, "f4").transpose(0, 2, 1)
    f["K562_X_promoters"] = one_hot(1, 10, 40, "f4").transpose(0, 2, 1)
    f["K562labels"] = (np.arange(10) // 2 % 2).reshape(10, 1)
