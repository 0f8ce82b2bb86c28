/** Error numbers of Emscripten's libc (WASI's), as its file system wants them. */
export const errno = {
  EEXIST: 20,
  EINVAL: 28,
  EIO: 29,
  EISDIR: 31,
  ENODEV: 43,
  ENOENT: 44,
  ENOMEM: 48,
  ENOTDIR: 54,
  ENOTEMPTY: 55,
  EPERM: 63,
} as const;
