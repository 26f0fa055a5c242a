"""The MES: partners order here, and operators list, take and advance orders."""
