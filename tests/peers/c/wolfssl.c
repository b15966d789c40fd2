// wolfSSL as a server of the matrix: `CA CERT KEY PORT tls1.2|tls1.3 on|off` answers one request per connection, with
// tickets on or off.
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

static const char ANSWER[] = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

// A connection that fails is the client's to report.
static void answer(WOLFSSL_CTX *context, int socket) {
    char request[1024];
    struct timeval patience = {10, 0};
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    WOLFSSL *tls = wolfSSL_new(context);
    wolfSSL_set_fd(tls, socket);
    if (wolfSSL_accept(tls) == WOLFSSL_SUCCESS && wolfSSL_read(tls, request, sizeof request) > 0) {
        wolfSSL_write(tls, ANSWER, sizeof ANSWER - 1);
        wolfSSL_shutdown(tls);
    }
    wolfSSL_free(tls);
    close(socket);
}

int main(int argc, char **args) {
    if (argc != 7) return 2;
    signal(SIGPIPE, SIG_IGN);
    wolfSSL_Init();
    int tls12 = strcmp(args[5], "tls1.2") == 0;
    WOLFSSL_CTX *context = wolfSSL_CTX_new(tls12 ? wolfTLSv1_2_server_method() : wolfTLSv1_3_server_method());
    if (wolfSSL_CTX_load_verify_locations(context, args[1], NULL) != WOLFSSL_SUCCESS ||
        wolfSSL_CTX_use_certificate_file(context, args[2], WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS ||
        wolfSSL_CTX_use_PrivateKey_file(context, args[3], WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS)
        return 1;
    wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_PEER | WOLFSSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    if (strcmp(args[6], "off") == 0) wolfSSL_CTX_NoTicketTLSv12(context);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(atoi(args[4]))};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&own, sizeof own) != 0 || listen(listener, 256) != 0) return 1;
    for (;;) answer(context, accept(listener, NULL, NULL));
}
