/** A table without lines, as neon_local prints it: a space on either side of every cell, columns as wide as their widest cell. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [header, ...rows].map((row) =>
    widths
      .map((width, column) => ` ${(row[column] ?? '').padEnd(width)} `)
      .join('')
      .trimEnd(),
  );
}
