# The node agent's image: the command, the tools that it starts, and what those load; no shell, no package manager.
#
#   docker build -t disk-discovery:0.1.0 .            with BuildKit; also: buildah build, podman build; scripts/image does it
#   docker buildx build --platform linux/amd64,linux/arm64 …    also: scripts/image --platform linux/arm64
#
# The command is compiled on the builder's own kind of machine; the other stage, which takes a few programs out of Debian's
# packages, runs programs of the image's architecture: where that is another one, under emulation (qemu-user-static).
#
# To build the same image again later, give the bases by digest (RUST, DEBIAN), Debian's packages by a snapshot in
# such a base, and SOURCE_DATE_EPOCH.
#
# Builder and runtime are one Debian release: the command is linked against its libraries. Bookworm's mkfs makes
# filesystems that every kernel from 5.15 on mounts; newer ones switch on features that older kernels refuse.
ARG RUST=docker.io/library/rust:1.95.0-slim-bookworm
ARG DEBIAN=docker.io/library/debian:bookworm-slim

FROM --platform=$BUILDPLATFORM ${RUST} AS build
ARG TARGETARCH
COPY scripts/image-build /usr/local/bin/
RUN image-build tools
WORKDIR /src
# Dependencies are compiled in a layer of their own, which only a change of the manifests makes anew.
COPY Cargo.toml Cargo.lock ./
COPY storage-core/Cargo.toml storage-core/
COPY agent/Cargo.toml agent/
COPY disk-discovery/Cargo.toml disk-discovery/
COPY testbed/Cargo.toml testbed/
COPY tests/Cargo.toml tests/
COPY tests/lab/Cargo.toml tests/lab/
COPY tests/skip/Cargo.toml tests/skip/
RUN for member in storage-core agent disk-discovery testbed tests tests/lab tests/skip; do \
        mkdir -p "$member/src" && echo '//! Empty.' > "$member/src/lib.rs" || exit 1; \
    done \
    && printf '//! Empty.\nfn main() {}\n' > disk-discovery/src/main.rs \
    && image-build
COPY storage-core storage-core
COPY agent agent
COPY disk-discovery disk-discovery
ARG COMMIT=
# Cargo goes by times: what was built from the empty sources must look older than the real ones.
RUN find storage-core agent disk-discovery -name '*.rs' -exec touch {} + \
    && DISK_DISCOVERY_COMMIT="$COMMIT" image-build

# Said, though it is the default: buildah 1.28 takes the other stage's platform here without it.
FROM --platform=$TARGETPLATFORM ${DEBIAN} AS runtime
# systemd-analyze checks the mount units that `--persist systemd` writes.
RUN apt-get update \
    && apt-get install -y --no-install-recommends e2fsprogs libudev1 systemd util-linux xfsprogs \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/command /usr/bin/disk-discovery
COPY scripts/image-root /
COPY LICENSE /usr/share/doc/disk-discovery/copyright
ARG SOURCE_DATE_EPOCH=0
RUN sh /image-root /image /usr/bin/disk-discovery /usr/sbin/mkfs.ext4 /usr/sbin/mkfs.xfs \
        /usr/sbin/wipefs /usr/bin/findmnt /usr/bin/systemd-analyze \
    && find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM scratch
COPY --from=runtime /image/ /
ARG VERSION=0.1.0
ARG COMMIT=
LABEL org.opencontainers.image.title="disk-discovery" \
      org.opencontainers.image.description="Prepares a node's spare disks for Longhorn" \
      org.opencontainers.image.source="https://github.com/disk-discovery/disk-discovery" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
ENTRYPOINT ["/usr/bin/disk-discovery"]
