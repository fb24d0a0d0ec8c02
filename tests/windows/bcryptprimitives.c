/* What Wine 8 lacks of Windows, and Rust's standard library asks for: a source of random numbers. For tests alone. */

typedef unsigned long ulong;
typedef unsigned char byte;

byte __attribute__((ms_abi)) SystemFunction036(void *buffer, ulong len); /* RtlGenRandom, of advapi32 */

__declspec(dllexport) int ProcessPrng(byte *buffer, unsigned long long len)
{
    return SystemFunction036(buffer, (ulong)len) ? 1 : 0;
}
