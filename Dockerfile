# docker build -t crema . && docker run -p 6380:6380 -p 9380:9380 crema --upstream redis://HOST:6379
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin crema && cp target/release/crema /crema

# No shell and no package manager: glibc, certificates, and a user that is not root.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="crema" \
      org.opencontainers.image.description="A caching proxy for Redis and Valkey" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /crema /usr/local/bin/crema
# Within a container the loopback address would be reachable from nowhere. Who may reach the ports is for -p to say; the
# admin port belongs in trusted networks.
ENV CREMA_LISTEN=0.0.0.0:6380 CREMA_ADMIN=0.0.0.0:9380
EXPOSE 6380 9380
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["/usr/local/bin/crema", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/crema"]
