/**
 * A PostgreSQL data directory that is not ours, as import/ reads it. The host says where it is (server/import/): a folder, or a tarball that was
 * extracted into one.
 */
export interface DataDirectory {
  /** For messages: what the user called it. */
  readonly name: string;
  /** All regular files; paths are relative to it, without a leading slash. */
  readonly files: readonly { readonly path: string; readonly size: number }[];
  /** Exactly these bytes. Throws `corrupt` if the file does not have them. They are the caller's until its next `read`. */
  read(path: string, offset: number, length: number): Promise<Uint8Array>;
}
