#!/usr/bin/env bash
# For a machine with a GPU, Python 3.12 and torch, but no network: run this where there is one, in half a minute, just
# before the repository is copied there together with the two folders that this writes and git ignores:
#   .whl   wheels of what is missing there (benchmarks/gpu/wheels.txt)
#   .gpu   images for the run of minutes, and a note of the commit
# Then, there: bash benchmarks/gpu/check.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-python3}
mkdir -p .gpu .whl
rm -f .whl/*.whl # two versions of a package would stop the installation
"$PYTHON" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
  -d .whl -r benchmarks/gpu/wheels.txt
if [ ! -e .gpu/emoji-64.zip ]; then # 3,786 images of 64x64: Noto Color Emoji (Google), from an npm package of MIT licence
  aside=$(mktemp -d)
  trap 'rm -rf "$aside"' EXIT
  if (cd "$aside" && npm pack --silent emoji-datasource-google@16.0.0 >/dev/null &&
    tar xzf emoji-datasource-google-16.0.0.tgz --wildcards 'package/img/google/64/*.png'); then
    "$PYTHON" - "$aside/package/img/google/64" .gpu/emoji-64.zip <<'P'
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_STORED) as archive:
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.png")):
        archive.write(path, path.name)
P
  else
    echo "no npm, or no emoji: the run of minutes will be of generated photos"
  fi
fi
"$PYTHON" benchmarks/gpu/provenance.py .gpu/commit.json
echo "$(ls .whl | wc -l) wheels; MiB: $(du -sm .gpu .whl | tr '\t\n' '  ')and $(git ls-files -z | xargs -0 du -cm | tail -n 1 | cut -f 1) of tracked files"
