# One image for both daemons. Nothing here needs BuildKit, and nothing minds it.

FROM rust:1-slim-bookworm AS build
WORKDIR /build

# The dependencies in a layer of their own: built from the manifests and empty sources, and again
# only when a manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY benches/measure/Cargo.toml benches/measure/
COPY benches/peers/Cargo.toml benches/peers/
COPY disk/Cargo.toml disk/
COPY faults/Cargo.toml faults/
COPY feed/Cargo.toml feed/
COPY net/Cargo.toml net/
COPY publisher/Cargo.toml publisher/
COPY subscriber/Cargo.toml subscriber/
RUN for crate in benches/measure benches/peers disk faults feed net publisher subscriber; do mkdir "$crate/src" && touch "$crate/src/lib.rs"; done \
 && mkdir -p src benches/pipeline && echo 'fn main() {}' | tee src/main.rs benches/micro.rs benches/peers/src/main.rs > benches/pipeline/main.rs \
 && cargo build --release --locked

COPY src src
COPY disk disk
COPY faults faults
COPY feed feed
COPY net net
COPY publisher publisher
COPY subscriber subscriber
# Cargo compares times, and the empty sources are newer than the real ones.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --release --locked

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="downpipe" \
      org.opencontainers.image.description="A log pipeline over ZeroMQ PUB/SUB, without a broker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
COPY docker-entrypoint.sh /usr/local/bin/
COPY --from=build /build/target/release/downpipe /usr/local/bin/
# Where the log or the journal lies: mount a folder or a volume here. 10001 is who serves if nobody else owns it.
RUN install -d -o 10001 -g 10001 /data
ENV PUBLISHER_JOURNAL=/data/journal SUBSCRIBER_LOG=/data/subscriber.log
EXPOSE 5000 4444 4445 4446
# Asks a publisher. For a subscriber: downpipe health http://127.0.0.1:5001
HEALTHCHECK --interval=2s --timeout=5s --retries=3 CMD ["downpipe", "health"]
# Starts as root to see who owns /data, gives up root for good, then serves.
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["--help"]
