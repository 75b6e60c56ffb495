# docker build -t crema . && docker run -p 6380:6380 -p 9380:9380 crema --upstream redis://HOST:6379
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-gnu" \
    && cargo build --release --locked --bin crema --config .cargo/static.toml --target "$target" \
    && cp "target/$target/release/crema" /crema

# The program, which is linked statically, and the authorities that it believes. No C library, no shell, no user but a number.
FROM scratch
LABEL org.opencontainers.image.title="crema" \
      org.opencontainers.image.description="A caching proxy for Redis and Valkey" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /crema /usr/local/bin/crema
USER 65532:65532
# Within a container the loopback address would be reachable from nowhere. Who may reach the ports is for -p to say; the
# admin port belongs in trusted networks.
ENV CREMA_LISTEN=0.0.0.0:6380 CREMA_ADMIN=0.0.0.0:9380
EXPOSE 6380 9380
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["/usr/local/bin/crema", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/crema"]
