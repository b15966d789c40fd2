// mbedTLS as a server of the matrix: `CA CERT KEY PORT tls1.2|tls1.3 on|off` answers one request per connection, with
// tickets or with a session cache. The version is the library's own: 2.28 has TLS 1.2 only.
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_cache.h>
#include <mbedtls/ssl_ticket.h>
#include <signal.h>
#include <string.h>

#define PATIENCE_MS 10000
#define LIFETIME_S 86400

static const unsigned char ANSWER[] = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

static mbedtls_ctr_drbg_context numbers;
static mbedtls_entropy_context entropy;
static mbedtls_ssl_config config;
static mbedtls_ssl_cache_context cache;
static mbedtls_ssl_ticket_context tickets;
static mbedtls_x509_crt authority, certificate;
static mbedtls_pk_context key;

// A connection that fails is the client's to report.
static void answer(mbedtls_net_context *client) {
    unsigned char request[1024];
    mbedtls_ssl_context tls;
    mbedtls_ssl_init(&tls);
    mbedtls_ssl_setup(&tls, &config);
    mbedtls_ssl_set_bio(&tls, client, mbedtls_net_send, NULL, mbedtls_net_recv_timeout);
    if (mbedtls_ssl_handshake(&tls) == 0 && mbedtls_ssl_read(&tls, request, sizeof request) > 0) {
        mbedtls_ssl_write(&tls, ANSWER, sizeof ANSWER - 1);
        mbedtls_ssl_close_notify(&tls);
    }
    mbedtls_ssl_free(&tls);
    mbedtls_net_free(client);
}

int main(int argc, char **args) {
    mbedtls_net_context listener, client;
    if (argc != 7) return 2;
    signal(SIGPIPE, SIG_IGN);
    mbedtls_ctr_drbg_init(&numbers);
    mbedtls_entropy_init(&entropy);
    mbedtls_ssl_config_init(&config);
    mbedtls_ssl_cache_init(&cache);
    mbedtls_ssl_ticket_init(&tickets);
    mbedtls_net_init(&listener);
    if (mbedtls_ctr_drbg_seed(&numbers, mbedtls_entropy_func, &entropy, NULL, 0) ||
        mbedtls_x509_crt_parse_file(&authority, args[1]) || mbedtls_x509_crt_parse_file(&certificate, args[2]) ||
        mbedtls_pk_parse_keyfile(&key, args[3], NULL) ||
        mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT) ||
        mbedtls_ssl_conf_own_cert(&config, &certificate, &key) ||
        mbedtls_ssl_ticket_setup(&tickets, mbedtls_ctr_drbg_random, &numbers, MBEDTLS_CIPHER_AES_256_GCM, LIFETIME_S) ||
        mbedtls_net_bind(&listener, NULL, args[4], MBEDTLS_NET_PROTO_TCP))
        return 1;
    mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &numbers);
    mbedtls_ssl_conf_ca_chain(&config, &authority, NULL);
    mbedtls_ssl_conf_authmode(&config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_read_timeout(&config, PATIENCE_MS);
    if (strcmp(args[6], "on") == 0)
        mbedtls_ssl_conf_session_tickets_cb(&config, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse, &tickets);
    else
        mbedtls_ssl_conf_session_cache(&config, &cache, mbedtls_ssl_cache_get, mbedtls_ssl_cache_set);
    for (;;) {
        mbedtls_net_init(&client);
        if (mbedtls_net_accept(&listener, &client, NULL, 0, NULL) == 0) answer(&client);
    }
}
