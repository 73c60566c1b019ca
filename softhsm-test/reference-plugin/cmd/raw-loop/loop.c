/*
 * The hot loops. The few PKCS#11 names they need are declared here, so that no
 * header package has to be installed.
 */
#include "loop.h"

#include <dlfcn.h>
#include <string.h>
#include <time.h>

typedef unsigned long ulong_t; /* CK_ULONG, every handle and every result code */

struct attribute { ulong_t type; void *value; ulong_t length; };
struct mechanism { ulong_t type; void *parameter; ulong_t length; };
struct gcm_parameters {
    unsigned char *iv; ulong_t iv_length, iv_bits;
    unsigned char *aad; ulong_t aad_length;
    ulong_t tag_bits;
};

enum {
    CLASS = 0x0, TOKEN = 0x1, PRIVATE = 0x2, VALUE = 0x11, KEY_TYPE = 0x100,
    SENSITIVE = 0x103, EXTRACTABLE = 0x162,
    SECRET_KEY = 4, GENERIC_SECRET = 0x10,
    AES_GCM = 0x1087, AES_KEY_WRAP = 0x2109,
};

enum operation { WRAP, UNWRAP, GCM_ENCRYPT, GCM_DECRYPT };

#define SEED 32
#define WRAPPED 40
#define IV 16
#define TAG 16

struct calls {
    ulong_t (*create)(ulong_t, struct attribute *, ulong_t, ulong_t *);
    ulong_t (*destroy)(ulong_t, ulong_t);
    ulong_t (*wrap)(ulong_t, struct mechanism *, ulong_t, ulong_t, unsigned char *, ulong_t *);
    ulong_t (*unwrap)(ulong_t, struct mechanism *, ulong_t, unsigned char *, ulong_t,
                      struct attribute *, ulong_t, ulong_t *);
    ulong_t (*get)(ulong_t, ulong_t, struct attribute *, ulong_t);
    ulong_t (*encrypt_init)(ulong_t, struct mechanism *, ulong_t);
    ulong_t (*encrypt)(ulong_t, unsigned char *, ulong_t, unsigned char *, ulong_t *);
    ulong_t (*decrypt_init)(ulong_t, struct mechanism *, ulong_t);
    ulong_t (*decrypt)(ulong_t, unsigned char *, ulong_t, unsigned char *, ulong_t *);
};

struct state {
    struct calls c;
    ulong_t session, key;
    unsigned char seed[SEED];
    unsigned char wrapped[WRAPPED];
    unsigned char iv[IV];
    unsigned char sealed[SEED + TAG];
    const char **failed;
};

#define DO(name, call)                    \
    do {                                  \
        ulong_t result_ = (call);         \
        if (result_ != 0) {               \
            *s->failed = name;            \
            return result_;               \
        }                                 \
    } while (0)

#define FAIL(text)          \
    do {                    \
        *s->failed = text;  \
        return 0x5;         \
    } while (0)

static unsigned char yes = 1, no = 0;

static ulong_t wrap_once(struct state *s)
{
    ulong_t class = SECRET_KEY, type = GENERIC_SECRET, object, length = WRAPPED;
    /* Not private: SoftHSM then spares itself the encryption of a value that
     * lives for microseconds in this process alone. */
    struct attribute template[] = {
        { CLASS, &class, sizeof class }, { KEY_TYPE, &type, sizeof type },
        { TOKEN, &no, 1 }, { PRIVATE, &no, 1 }, { EXTRACTABLE, &yes, 1 },
        { VALUE, s->seed, SEED },
    };
    struct mechanism kw = { AES_KEY_WRAP, NULL, 0 };

    DO("C_CreateObject", s->c.create(s->session, template, 6, &object));
    DO("C_WrapKey", s->c.wrap(s->session, &kw, s->key, object, s->wrapped, &length));
    DO("C_DestroyObject", s->c.destroy(s->session, object));
    if (length != WRAPPED)
        FAIL("length of the wrapped seed");
    return 0;
}

static ulong_t unwrap_once(struct state *s)
{
    ulong_t class = SECRET_KEY, type = GENERIC_SECRET, object;
    unsigned char back[SEED];
    struct attribute template[] = {
        { CLASS, &class, sizeof class }, { KEY_TYPE, &type, sizeof type },
        { TOKEN, &no, 1 }, { PRIVATE, &no, 1 },
        { SENSITIVE, &no, 1 }, { EXTRACTABLE, &yes, 1 },
    };
    struct attribute value = { VALUE, back, sizeof back };
    struct mechanism kw = { AES_KEY_WRAP, NULL, 0 };

    DO("C_UnwrapKey", s->c.unwrap(s->session, &kw, s->key, s->wrapped, WRAPPED, template, 6, &object));
    DO("C_GetAttributeValue", s->c.get(s->session, object, &value, 1));
    DO("C_DestroyObject", s->c.destroy(s->session, object));
    if (value.length != SEED || memcmp(back, s->seed, SEED) != 0)
        FAIL("the unwrapped seed");
    return 0;
}

/* As the reference plugin's library does it: asks for the length first. */
static ulong_t seal_once(struct state *s)
{
    struct gcm_parameters p = { s->iv, IV, IV * 8, NULL, 0, TAG * 8 };
    struct mechanism gcm = { AES_GCM, &p, sizeof p };
    ulong_t length = 0;

    DO("C_EncryptInit", s->c.encrypt_init(s->session, &gcm, s->key));
    DO("C_Encrypt", s->c.encrypt(s->session, s->seed, SEED, NULL, &length));
    if (length != sizeof s->sealed)
        FAIL("length of the sealed seed");
    DO("C_Encrypt", s->c.encrypt(s->session, s->seed, SEED, s->sealed, &length));
    return 0;
}

static ulong_t open_once(struct state *s)
{
    struct gcm_parameters p = { s->iv, IV, IV * 8, NULL, 0, TAG * 8 };
    struct mechanism gcm = { AES_GCM, &p, sizeof p };
    unsigned char back[SEED + TAG];
    ulong_t length = 0;

    DO("C_DecryptInit", s->c.decrypt_init(s->session, &gcm, s->key));
    DO("C_Decrypt", s->c.decrypt(s->session, s->sealed, sizeof s->sealed, NULL, &length));
    if (length > sizeof back)
        FAIL("length of the opened seed");
    DO("C_Decrypt", s->c.decrypt(s->session, s->sealed, sizeof s->sealed, back, &length));
    if (length != SEED || memcmp(back, s->seed, SEED) != 0)
        FAIL("the opened seed");
    return 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int load(struct calls *c, const char *module)
{
    /* It is loaded already: this only gets a handle to the same copy. */
    void *library = dlopen(module, RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL)
        return 0;
    struct { void *slot; const char *name; } names[] = {
        { &c->create, "C_CreateObject" }, { &c->destroy, "C_DestroyObject" },
        { &c->wrap, "C_WrapKey" }, { &c->unwrap, "C_UnwrapKey" },
        { &c->get, "C_GetAttributeValue" },
        { &c->encrypt_init, "C_EncryptInit" }, { &c->encrypt, "C_Encrypt" },
        { &c->decrypt_init, "C_DecryptInit" }, { &c->decrypt, "C_Decrypt" },
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *symbol = dlsym(library, names[i].name);
        if (symbol == NULL)
            return 0;
        memcpy(names[i].slot, &symbol, sizeof symbol);
    }
    return 1;
}

ulong_t raw_loop(const char *module, ulong_t session, ulong_t key, int operation,
                 double seconds, ulong_t *count, const char **failed)
{
    static ulong_t (*const once[])(struct state *) = {
        [WRAP] = wrap_once, [UNWRAP] = unwrap_once,
        [GCM_ENCRYPT] = seal_once, [GCM_DECRYPT] = open_once,
    };
    struct state state = { .session = session, .key = key, .failed = failed }, *s = &state;

    if (!load(&s->c, module))
        FAIL("the module does not export the C_ functions");
    for (int i = 0; i < SEED; i++)
        s->seed[i] = (unsigned char)(i * 7 + 1);

    /* Something to unwrap and to open. */
    ulong_t result = operation <= UNWRAP ? wrap_once(s) : seal_once(s);
    if (result != 0)
        return result;

    double end = now() + seconds;
    for (*count = 0; now() < end; ++*count) {
        result = once[operation](s);
        if (result != 0)
            return result;
    }
    return 0;
}
