#!/bin/sh
# Pin the images that FILES name to what their tags mean now: name:tag@sha256:... is rewritten in place.
# usage: pin_images.sh FILE...     (needs docker with buildx, and a registry; `make pin` calls it)
set -eu
[ $# -gt 0 ] || { echo "usage: pin_images.sh FILE..." >&2; exit 2; }
images=$(sed -nE 's/^(FROM|[[:space:]]+image:)[[:space:]]+([^@[:space:]]+:[^@[:space:]]+)@sha256:.*/\2/p' "$@" | sort -u)
[ -n "$images" ] || { echo "no image with a digest is named in $*" >&2; exit 1; }
for image in $images; do
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    case $digest in
        sha256:????????????????????????????????????????????????????????????????) ;;
        *) echo "$image: the registry answered no digest: $digest" >&2; exit 1 ;;
    esac
    for file in "$@"; do
        sed "s|$image@sha256:[0-9a-f]*|$image@$digest|" "$file" > "$file.new"
        cat "$file.new" > "$file"
        rm "$file.new"
    done
    echo "$image@$digest"
done
