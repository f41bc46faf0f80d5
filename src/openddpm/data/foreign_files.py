"""Formats that are not read, and how to convert each to one that is."""

from typing import NamedTuple


class NotRead(NamedTuple):
    """A format that is not read, and what to do with it."""

    what: str
    advice: str
    code: str = ""
    """Python code that converts it."""

    @property
    def hint(self) -> str:
        """Return the advice and the code as a sentence."""
        return f"{self.advice[0].upper()}{self.advice[1:]}{f': {self.code}' if self.code else ''}."


_SAVE = "if you trust it, save its images, (N, H, W, C) or (N, C, H, W), as a .npy file"
_PICKLE = NotRead(
    "a pickle, which is never loaded, since it could run any program",
    _SAVE,
    "numpy.save('images.npy', numpy.array(pickle.load(open(FILE, 'rb')))). For CIFAR take the binary files instead: "
    "cifar-10-binary.tar.gz, unpacked",
)
_TORCH = NotRead(
    "a pickle of PyTorch, which is never loaded, since it could run any program",
    _SAVE,
    "numpy.save('images.npy', torch.load(FILE, weights_only=True).numpy())",
)
_MATLAB = NotRead("a MATLAB file", _SAVE, "numpy.save('images.npy', scipy.io.loadmat(FILE)['X'].transpose(3, 0, 1, 2))")
_HDF5 = NotRead("an HDF5 file", _SAVE, "numpy.save('images.npy', h5py.File(FILE)['images'][:])")
_TFRECORD = NotRead(
    "a TFRecord file",
    "write its images as files",
    "for i, r in enumerate(tensorflow.data.TFRecordDataset(FILE)): open(f'{i}.png', 'wb').write(tensorflow.train."
    "Example.FromString(r.numpy()).features.feature['image'].bytes_list.value[0])",
)
_LMDB = NotRead(
    "an LMDB database",
    "write its images as files",
    "for i, (_, v) in enumerate(lmdb.open(FOLDER).begin().cursor()): open(f'{i}.png', 'wb').write(v)",
)
_SAFETENSORS = NotRead(
    "a safetensors file", _SAVE, "numpy.save('images.npy', safetensors.numpy.load_file(FILE)['images'])"
)
_STREAMED = NotRead("a file of a data loader that is not supported", "give the images from which it was written")
_MEDICAL = NotRead("a medical image", "convert it to TIFF or PNG, and give its values as --pixel_range")
_VIDEO = NotRead("a video", "extract its frames first, such as by: ffmpeg -i VIDEO FOLDER/%06d.png")
_ARCHIVE = NotRead("archives beside or inside others are not opened", "unpack them, or give one as --dataset")
_OTHER_ARCHIVE = NotRead("an archive of a kind that is not opened", "unpack it, or convert it to a zip or tar file")
_CONVERT = NotRead("a format that is not read", "convert it to PNG")
_MISNAMED = NotRead("a file that is read only if its name has this suffix, or in a folder", "rename it")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".rar", ".7z", ".tfrecord", ".tfrecords")
NOT_READ = {  # by suffix: formats that may hold images
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"), _VIDEO),
    **dict.fromkeys(ARCHIVE_SUFFIXES, _ARCHIVE),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".lz4", ".rar", ".7z"), _OTHER_ARCHIVE),
    **dict.fromkeys((".pkl", ".pickle", ".p"), _PICKLE),
    **dict.fromkeys((".pt", ".pth", ".ckpt"), _TORCH),
    **dict.fromkeys((".h5", ".hdf5", ".he5"), _HDF5),
    **dict.fromkeys((".tfrecord", ".tfrecords"), _TFRECORD),
    **dict.fromkeys((".lmdb", ".mdb"), _LMDB),
    **dict.fromkeys((".beton", ".mds"), _STREAMED),
    **dict.fromkeys((".dcm", ".nii"), _MEDICAL),
    **dict.fromkeys((".tga", ".psd", ".ico", ".qoi", ".dds", ".exr", ".hdr", ".svg", ".eps", ".pdf", ".xcf"), _CONVERT),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pcx", ".dib"), _CONVERT),
    **dict.fromkeys((".sgi", ".ras", ".xbm", ".xpm", ".icns", ".cur", ".fits", ".jls"), _CONVERT),
    **{".mat": _MATLAB, ".safetensors": _SAFETENSORS, ".parquet": _MISNAMED},
}
