"""Formats that are not read, and the way from each to one that is."""

from pathlib import Path

from openddpm.errors import UserError
from openddpm.names import as_text

_PICKLE = "a pickle, which is never loaded, since it could run any program"
_ARRAY = "Where you trust the file, save its images as (N, H, W, C) or (N, C, H, W): "
_UNPACK = "Unpack it into a folder, or pack it as a zip or tar file."
_WAYS = {
    (".pkl", ".pickle", ".p"): (
        _PICKLE,
        f"{_ARRAY}numpy.save('images.npy', numpy.array(pickle.load(open(FILE, 'rb')))).",
    ),
    (".pt", ".pth", ".ckpt"): (
        "a pickle of PyTorch, which is never loaded, since it could run any program",
        f"{_ARRAY}numpy.save('images.npy', torch.load(FILE, weights_only=True).numpy()).",
    ),
    (".mat",): (
        "a MATLAB file",
        f"{_ARRAY}numpy.save('images.npy', scipy.io.loadmat(FILE)['X'].transpose(3, 0, 1, 2)).",
    ),
    (".h5", ".hdf5", ".he5"): ("an HDF5 file", f"{_ARRAY}numpy.save('images.npy', h5py.File(FILE)['images'][:])."),
    (".tfrecord", ".tfrecords"): (
        "a TFRecord file",
        "Write its images as files: for i, r in enumerate(tensorflow.data.TFRecordDataset(FILE)): open(f'{i}.png', "
        "'wb').write(tensorflow.train.Example.FromString(r.numpy()).features.feature['image'].bytes_list.value[0]).",
    ),
    (".lmdb", ".mdb"): (
        "an LMDB database",
        "Write its images as files: for i, (_, v) in enumerate(lmdb.open(FOLDER).begin().cursor()): "
        "open(f'{i}.png', 'wb').write(v).",
    ),
    (".beton",): ("an FFCV file", "Give the images from which it was written."),
    (".safetensors",): (
        "a safetensors file",
        "Save its images as uint8 (N, H, W, C): numpy.save('images.npy', safetensors.numpy.load_file(FILE)['images']).",
    ),
    (".rar", ".7z", ".zst", ".lz4"): ("an archive of a kind that is not read", _UNPACK),
    (".mp4", ".avi", ".mov", ".mkv", ".webm"): ("a video", "Write its frames as images: ffmpeg -i FILE frame-%05d.png"),
    (".csv", ".tsv", ".json", ".jsonl", ".txt"): ("text", "Give the folder, or the table, that holds the images."),
}


def refusal_of_foreign(path: Path) -> UserError | None:
    """Return why a file of a known format is not read, and how to make it one that is; None for other files."""
    for suffixes, (what, way) in _WAYS.items():
        if path.suffix.lower() in suffixes:
            return UserError(f"'{as_text(path)}' is no data set that can be read: {what}", way)
    return _refusal_of_objects(path)


def _refusal_of_objects(path: Path) -> UserError | None:
    """Return the same of a pickle under any name, such as CIFAR's data_batch_1."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError:
        return None
    if len(start) < 2 or start[0] != 0x80 or not 2 <= start[1] <= 5:  # PROTO, and the versions there are
        return None
    return UserError(
        f"'{as_text(path)}' is no data set that can be read: {_PICKLE}",
        "CIFAR comes in binary files too, which are read: cifar-10-binary.tar.gz. Or, where you trust the file: "
        "numpy.save('images.npy', pickle.load(open(FILE, 'rb'), encoding='bytes')[b'data'].reshape(-1, 3, 32, 32)).",
    )
