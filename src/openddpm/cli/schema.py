"""openddpm schema"""

from pathlib import Path

from openddpm.cli.arguments import call


def run(arguments: list[str]) -> int:
    """Parse `arguments` and write the schemas."""
    return call(_schema, "schema", arguments)


def _schema(output_dir: Path = Path("docs/schema")) -> int:
    """Write a JSON Schema of each file of a record, or a line of it, and of manifest, verification, imported record.

    Args:
        output_dir: Folder of the schemas; existing ones are replaced.
    """
    from pydantic import BaseModel

    from openddpm.record.files import write_json
    from openddpm.record.imported import ImportedRecord
    from openddpm.record.manifest_record import Manifest
    from openddpm.record.verification import VerificationRecord
    from openddpm.record.writer import IMPORTED_FILE, MANIFEST_FILE, SCHEMAS, VERIFICATION_FILE

    kinds: dict[str, type[BaseModel]] = {
        **SCHEMAS,
        MANIFEST_FILE: Manifest,
        VERIFICATION_FILE: VerificationRecord,
        IMPORTED_FILE: ImportedRecord,
    }
    for name, kind in kinds.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name}
        write_json(output_dir / f"{Path(name).stem}.schema.json", kind.model_json_schema(mode="serialization") | schema)
    print(f"schemas: {output_dir}")
    return 0
