/* Compiles a model for an Intel NPU with OpenVINO's own compiler, which comes as a Windows library alone.
 *
 *     npu_compile.exe MODEL BLOB PLATFORM
 *
 * Built with mingw, run by wine beside openvino_c.dll (targets/npu/wine.py). The interface is OpenVINO's C API,
 * declared here by what its documentation says: the wheel has no headers of it. 0 and the blob, or 1 and the
 * reason on stderr.
 */
#include <stddef.h>
#include <stdio.h>
#include <windows.h>

typedef int (*create_t)(void **core);
typedef int (*read_t)(const void *core, const char *model, const char *weights, void **network);
typedef int (*compile_t)(const void *core, const void *network, const char *device, size_t arguments, void **compiled, ...);
typedef int (*export_t)(const void *compiled, const char *path);
typedef const char *(*message_t)(void);

static HMODULE library;

static void *named(const char *name)
{
    void *found = (void *)GetProcAddress(library, name);
    if (!found) {
        fprintf(stderr, "openvino_c.dll has no %s\n", name);
        ExitProcess(1);
    }
    return found;
}

static void check(int status, const char *step)
{
    if (status != 0) {
        fprintf(stderr, "%s: %s\n", step, ((message_t)named("ov_get_last_err_msg"))());
        ExitProcess(1);
    }
}

int main(int count, char **words)
{
    void *core, *network, *compiled;
    library = LoadLibraryA("openvino_c.dll");
    if (count != 4 || !library) {
        fprintf(stderr, count != 4 ? "give MODEL BLOB PLATFORM\n" : "openvino_c.dll does not load\n");
        return 1;
    }
    check(((create_t)named("ov_core_create"))(&core), "ov_core_create");
    check(((read_t)named("ov_core_read_model"))(core, words[1], NULL, &network), "read");
    check(((compile_t)named("ov_core_compile_model"))(core, network, "NPU", 4, &compiled, "NPU_COMPILER_TYPE", "PLUGIN",
                                                      "NPU_PLATFORM", words[3]), "compile");
    check(((export_t)named("ov_compiled_model_export_model"))(compiled, words[2]), "export");
    fflush(NULL);
    /* The libraries' own ends hang under wine. */
    TerminateProcess(GetCurrentProcess(), 0);
    return 0;
}
